"""The data plane: tenant requests from the first header to the last byte."""
