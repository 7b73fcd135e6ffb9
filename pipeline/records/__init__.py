"""Records and their codecs: no Beam, no files."""
