package ca

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// elsewhere replays what came from other CAs: requests, cross certificates, ceremonies.
type elsewhere struct {
	pending    map[string]map[string]string // name to detail
	crosses    map[string]map[string]string // subject, issuer and created to detail; of imported responders, too, which have no subject
	ceremonies map[string]ceremony          // by root
}

// ceremony is how far a ceremony record was imported.
type ceremony struct {
	entries int64
	head    string
}

func newElsewhere() elsewhere {
	return elsewhere{map[string]map[string]string{}, map[string]map[string]string{}, map[string]ceremony{}}
}

func crossKey(detail map[string]string) string {
	return detail["subject"] + " " + detail["issuer"] + " " + detail["created"]
}

func (w *elsewhere) entry(e *audit.Entry) error {
	switch e.Action {
	case "ca.request":
		if w.pending[e.Object] != nil {
			return fmt.Errorf("a CA %q was requested while a request waited", e.Object)
		}
		w.pending[e.Object] = e.Detail
	case "ca.withdraw":
		if w.pending[e.Object] == nil {
			return fmt.Errorf("a request for CA %q was withdrawn that did not wait", e.Object)
		}
		delete(w.pending, e.Object)
	case "ca.import":
		delete(w.pending, e.Object)
	case "ca.cross":
		w.crosses[crossKey(e.Detail)] = e.Detail
	case "ca.responder":
		delete(w.pending, waitingResponder+e.Object)
		w.crosses[crossKey(e.Detail)] = e.Detail
	case "ca.ceremony":
		n := w.ceremonies[e.Object].entries + 1
		if e.Detail["entry"] != strconv.FormatInt(n, 10) {
			return fmt.Errorf("entry %s of the ceremony record of root %s was recorded where %d was next", e.Detail["entry"], e.Object, n)
		}
		w.ceremonies[e.Object] = ceremony{n, e.Detail["hash"]}
	}
	return nil
}

// finish compares the tables.
func (w *elsewhere) finish(ctx context.Context, tx *db.Tx, find func(format string, args ...any)) error {
	err := readPending(ctx, tx, func(p *Pending) error {
		if !maps.Equal(w.pending[p.Name], p.detail()) {
			find("table ca_pending: the request of CA %q is not what the record says", p.Name)
		}
		delete(w.pending, p.Name)
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(w.pending)) {
		find("table ca_pending: the request of CA %q is gone", name)
	}
	err = readCrosses(ctx, tx, func(r crossRow) error {
		if k := crossKey(r.detail()); !maps.Equal(w.crosses[k], r.detail()) {
			find("table ca_cross: the cross certificate for root %x is not what the record says", r.subject)
		} else {
			delete(w.crosses, k)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = readResponders(ctx, tx, func(r responderRow) error {
		if k := crossKey(r.detail()); !maps.Equal(w.crosses[k], r.detail()) {
			find("table ca_responder: the certificate of a responder of CA %x is not what the record says", r.issuer)
		} else {
			delete(w.crosses, k)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(w.crosses)) {
		if w.crosses[k]["subject"] == "" {
			find("table ca_responder: the certificate of a responder of CA %s is gone", w.crosses[k]["issuer"])
			continue
		}
		find("table ca_cross: the cross certificate for root %s is gone", w.crosses[k]["subject"])
	}
	return w.finishCeremonies(ctx, tx, find)
}

func (w *elsewhere) finishCeremonies(ctx context.Context, tx *db.Tx, find func(format string, args ...any)) error {
	err := tx.Each(ctx, func(row db.Row) error {
		var root, head []byte
		var entries int64
		if err := row.Scan(&root, &entries, &head); err != nil {
			return err
		}
		id := hex.EncodeToString(root)
		if (ceremony{entries, hex.EncodeToString(head)}) != w.ceremonies[id] {
			find("table ca_ceremony: the row of root %s is not what the record says", id)
		}
		delete(w.ceremonies, id)
		return nil
	}, `SELECT root, entries, head FROM ca_ceremony WHERE cell = 0`)
	for _, id := range slices.Sorted(maps.Keys(w.ceremonies)) {
		find("table ca_ceremony: the row of root %s is gone", id)
	}
	return err
}
