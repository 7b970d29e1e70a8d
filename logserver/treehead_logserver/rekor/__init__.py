"""The write face of Rekor v2, without HTTP: what its clients send, are answered, and have to trust."""
