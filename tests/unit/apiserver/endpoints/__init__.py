"""Tests of the parts of the endpoints."""
