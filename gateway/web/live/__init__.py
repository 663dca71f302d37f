"""The live page at `/`: statistics of the system, updated every second, and a form to try the model.

page.py     serves the files of the page
events.py   the stream of statistics that the page shows
static/     HTML, CSS and JavaScript, without a build step
"""
