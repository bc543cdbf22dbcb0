"""Who is traced: processes that exist, or a command that is started."""
