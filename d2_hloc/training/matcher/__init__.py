"""Training of the learned matcher: cached features of views -> pairs -> loss -> weights."""
