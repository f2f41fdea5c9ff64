"""The live window. Import `app.viewer.window` only where there is a display: it needs Open3D."""
