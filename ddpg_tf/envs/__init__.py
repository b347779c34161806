"""Gymnasium ids -> environments the loop can trust: spaces checked, frames, rendering, processes of their own.

Knows Config; imports no TensorFlow, for workers and films start from here.
"""

import os

# Before Gymnasium is imported: pygame greets on stdout, and SDL complains of a missing display before it finds this.
# "dummy" only where SDL has no "offscreen": where it is set, highway-env draws black pictures.
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
if not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
    os.environ.setdefault("SDL_VIDEODRIVER", "offscreen,dummy")
