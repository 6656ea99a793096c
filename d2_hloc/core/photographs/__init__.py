"""Parts and values of photographs: masks, and brightness of more than 8 bits."""
