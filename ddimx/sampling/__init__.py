"""What a sampling run does: settings, batches, files and the record of it all."""
