"""Against client drift: local objectives and corrections that keep local work in step with the federation."""
