"""Tests of the parts that meet the outside, each by itself: sockets, the state file, the command line."""
