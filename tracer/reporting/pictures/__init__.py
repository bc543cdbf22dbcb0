"""Plots, flame graphs and the HTML page."""
