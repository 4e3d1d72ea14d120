"""Parties that train and send a part of the model."""
