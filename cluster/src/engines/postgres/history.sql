-- Version 3: the history (system and timeline) in which appends may go on: all logs were compared with
-- what replicas hold since it began. Null where the server did not tell.
ALTER TABLE fence ADD COLUMN history text;
