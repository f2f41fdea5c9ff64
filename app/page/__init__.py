"""The browser page: recorded videos and pictures in, meshes out, and the browser's own camera live.

server.py   the way in: port, routes, start and stop
guard.py    who may ask for what: Host, Origin, login, visitors' cookies, limits, headers
visitors.py one folder for each visitor; what is in it and when it goes
uploads.py  files coming in: kinds, sizes, lengths
work.py     the one worker: jobs wait, run, report, are cancelled
layout.py   the Gradio blocks and what their events do
cards.py    pieces of HTML: progress, numbers, licences
models.py   which networks there are, and what they may be used for
live.py     the camera's WebSocket; live_card.py is its HTML
static/     style.css, page.js, live.js, login.html
"""
