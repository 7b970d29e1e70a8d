"""What the programs share, one noun a module: the server under load, the load, what is counted, and the results."""
