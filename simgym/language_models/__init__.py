"""Language models behind one protocol: in process, over a server, or scripted."""
