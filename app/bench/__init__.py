"""`--bench`: how fast this machine is at each step of the work, beside the official layout of the network in the same run."""
