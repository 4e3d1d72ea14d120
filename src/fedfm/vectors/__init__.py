"""Named vectors: how the tensors of a model lie in one flat vector, and which of them a sub-model has."""
