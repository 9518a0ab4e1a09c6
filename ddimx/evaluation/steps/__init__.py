"""Steps against quality: ways of drawing octrees, each measured on shapes that it drew."""
