"""Tests of the pure code."""
