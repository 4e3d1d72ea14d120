"""Codecs of the wire: sparsify, quantise, feed the error back, code without loss."""
