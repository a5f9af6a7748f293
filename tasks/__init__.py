"""Adapters: load, one fedsilo call, save, one log line."""
