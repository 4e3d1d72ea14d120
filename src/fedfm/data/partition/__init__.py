"""Partitions: how one pool of rows becomes the data of several parties."""
