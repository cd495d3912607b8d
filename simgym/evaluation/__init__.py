"""What assistants and simulators are worth."""
