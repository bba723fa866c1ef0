"""Calibration: data is passed through models, one block at a time, to take the statistics that methods ask for."""
