"""Stitching (SN-Net, ESTA): routes through a family of anchors, trained at once, each of them an ordinary model."""
