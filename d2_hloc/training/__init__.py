"""The training of the paper's Section 4: pairs of crops, the joint loss, the loop."""
