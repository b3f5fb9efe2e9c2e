"""The sources of Mailman's files: a directory of this host, of a container, or over SFTP."""
