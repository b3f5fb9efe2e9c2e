"""Where Mailman's files are read: a directory of this host, a container's, or one over SFTP."""
