package cmp

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/enrol"
	"mooring/wire/cmp"
)

// TestTransactionsAreBounded fills the memory of a node and lets it empty again.
func TestTransactionsAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	o := newTransactions(func() time.Time { return now })
	for i := range openMost {
		tx, fresh := o.take(fmt.Sprint(i))
		if !fresh {
			t.Fatalf("transaction %d: not fresh", i)
		}
		if i < waitingMost {
			if !o.room() {
				t.Fatalf("no room for request %d", i)
			}
			tx.waiting = &enrol.Request{}
		}
		o.release(tx)
	}
	if o.room() {
		t.Error("room for one more request that waits")
	}
	if tx, _ := o.take("one more"); tx != nil {
		t.Error("room for one more transaction")
	}
	if tx, fresh := o.take("7"); tx == nil || fresh {
		t.Error("a transaction that is open was not found")
	} else {
		tx.finish()
		o.release(tx)
	}
	if !o.room() {
		t.Error("a request that waits no longer keeps its room")
	}
	now = now.Add(openLife + time.Second)
	tx, fresh := o.take("one more")
	if !fresh {
		t.Fatal("no room after the others have expired")
	}
	o.discard(tx)
	// What waits lives longer. Number 7 ended; its last message came at the same time as the others'.
	if n := len(o.byID); n != waitingMost-1 {
		t.Errorf("%d transactions are left, want %d", n, waitingMost-1)
	}
	now = now.Add(waitingLife)
	if tx, _ = o.take("x"); len(o.byID) != 1 || o.waiting != 0 {
		t.Errorf("%d transactions are left, and %d wait", len(o.byID), o.waiting)
	}
	o.release(tx)
}

// TestTransactionsTakeTurns has many messages of one transaction at once.
func TestTransactionsTakeTurns(t *testing.T) {
	o := newTransactions(time.Now)
	var all sync.WaitGroup
	held, fresh := 0, 0
	for range 50 {
		all.Go(func() {
			tx, isFresh := o.take("one")
			if held++; held != 1 {
				t.Error("two at once")
			}
			if isFresh {
				fresh++
			}
			held--
			o.release(tx)
		})
	}
	all.Wait()
	if fresh != 1 || o.byID["one"].used != 0 {
		t.Errorf("%d were the first, and %d use it", fresh, o.byID["one"].used)
	}
}

// TestEveryKindHasAFailure holds the table to be complete.
func TestEveryKindHasAFailure(t *testing.T) {
	for _, k := range errs.Kinds() {
		if _, ok := kindFailures()[k]; !ok {
			t.Errorf("%v has no failure", k)
		}
	}
	if f := failureOf(fmt.Errorf("disk full")); f != cmp.SystemFailure {
		t.Errorf("an error of no kind: got %v", f)
	}
}
