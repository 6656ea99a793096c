"""Bundle adjustment of a model whose observations are not all right."""
