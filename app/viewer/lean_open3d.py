"""Open3D without Dash and Plotly, which it would import for drawing in notebooks; that is more than half of the time it takes."""

from core.lean_imports import functions_later

with functions_later("open3d.visualization.draw_plotly", "get_plotly_fig", "draw_plotly", "draw_plotly_server"):
    import open3d as o3d

__all__ = ["o3d"]
