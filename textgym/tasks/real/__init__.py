"""Tasks on published data: GRUE's seven, TL;DR, HH, GSM8K, and the two style tasks of Ziegler et al. (2019)."""
