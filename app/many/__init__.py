"""Folders of thousands of videos, over several processes, GPUs and machines: python -m app.many. See docs/many-videos.md."""
