"""InLoc: indoor localization by Direct, Sparse and Pooled PE, and Dense PV."""
