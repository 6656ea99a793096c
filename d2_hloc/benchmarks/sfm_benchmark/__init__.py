"""Local Feature Evaluation benchmark: sparse and dense models of photo collections."""
