package db

import "time"

// Hurry shortens how long the answer to a COMMIT is waited for on PostgreSQL, and how long it is asked what became of one.
func (d *DB) Hurry(commit, resolve time.Duration) {
	d.resolveWait = resolve
	if e, ok := d.engine.(*postgresEngine); ok {
		e.commitWait = commit
	}
}
