"""Database of uploadcore on SQLAlchemy."""
