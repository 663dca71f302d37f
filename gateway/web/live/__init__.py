"""The live page at `/`: what the system is doing, second by second, and a box to ask it something.

page.py     the page's own files
events.py   the stream of moments that it shows
static/     HTML, CSS and JavaScript as browsers take them, nothing to build
"""
