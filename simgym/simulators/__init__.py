"""User simulators: who plays the user, and how."""
