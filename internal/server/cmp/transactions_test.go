package cmp

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/enrol"
	"mooring/wire/cmp"
)

// address is the source of number i of many, of which each has as much as it may.
func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i / openOfSource)}) }

// senderOf is the sender of number i of many, of which each has as much as it may.
func senderOf(i, share int) string { return fmt.Sprint("device ", i/share) }

// TestTransactionsAreBounded fills the memory of a node and lets it empty again.
func TestTransactionsAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	o := newTransactions(func() time.Time { return now })
	for i := range openMost {
		tx, fresh := o.take(senderOf(i, waitingOfSender), []byte(fmt.Sprint(i)), address(i))
		if !fresh {
			t.Fatalf("transaction %d: not fresh", i)
		}
		if i < waitingMost {
			if !o.room(tx) {
				t.Fatalf("no room for request %d", i)
			}
			tx.waiting = &enrol.Request{}
		}
		if o.release(tx); i == openMost-1 && o.room(tx) {
			t.Error("room for one more request that waits")
		}
	}
	elsewhere := netip.MustParseAddr("192.0.2.1")
	if tx, _ := o.take("stranger", []byte("one more"), elsewhere); tx != nil {
		t.Error("room for one more transaction")
	}
	tx, fresh := o.take(senderOf(7, waitingOfSender), []byte("7"), elsewhere)
	if tx == nil || fresh {
		t.Fatal("a transaction that is open was not found")
	}
	tx.finish()
	o.release(tx)
	if !o.room(&transaction{sender: "stranger"}) {
		t.Error("a request that waits no longer keeps its room")
	}
	now = now.Add(openLife + time.Second)
	if tx, fresh = o.take("stranger", []byte("one more"), elsewhere); !fresh {
		t.Fatal("no room after the others have expired")
	}
	tx.void = true
	o.release(tx)
	// What waits lives longer. Number 7 ended; its last message came at the same time as the others'.
	if n := len(o.byID); n != waitingMost-1 {
		t.Errorf("%d transactions are left, want %d", n, waitingMost-1)
	}
	now = now.Add(waitingLife)
	if tx, _ = o.take("stranger", []byte("x"), elsewhere); len(o.byID) != 1 || o.waiting != 0 {
		t.Errorf("%d transactions are left, and %d wait", len(o.byID), o.waiting)
	}
	tx.void = true
	o.release(tx)
	if len(o.byID)+len(o.senders)+len(o.sources) != 0 {
		t.Errorf("of nothing is left %v, %v, %v", o.byID, o.senders, o.sources)
	}
}

// TestTransactionsAreShared has one sender, and then one network, take all that it can.
func TestTransactionsAreShared(t *testing.T) {
	o := newTransactions(func() time.Time { return time.Unix(1e9, 0) })
	here, next, elsewhere := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8:1::1")
	take := func(sender, id string, source netip.Addr) *transaction {
		t.Helper()
		tx, _ := o.take(sender, []byte(id), source)
		if tx != nil {
			o.release(tx)
		}
		return tx
	}
	for i := range openOfSender {
		if take("greedy", fmt.Sprint(i), here) == nil {
			t.Fatalf("no room for number %d of one sender", i)
		}
	}
	if take("greedy", "one more", elsewhere) != nil {
		t.Error("a sender has more than its share")
	}
	if take("modest", "1", here) == nil {
		t.Error("one sender keeps another away")
	}
	if tx, fresh := o.take("greedy", []byte("7"), here); tx == nil || fresh {
		t.Fatal("an open transaction was not found")
	} else {
		tx.finish()
		o.release(tx)
	}
	if tx := take("greedy", "one more", elsewhere); tx == nil || len(o.byID) != openOfSender+1 {
		t.Errorf("one that is finished keeps its room: got %v with %d", tx, len(o.byID))
	}
	for i := openOfSender; i < openOfSource; i++ {
		if take(senderOf(i, 10), fmt.Sprint(i), here) == nil {
			t.Fatalf("no room for number %d of one network", i)
		}
	}
	if take("late", "1", next) != nil {
		t.Error("a network has more than its share")
	}
	if take("late", "1", elsewhere) == nil {
		t.Error("one network keeps another away")
	}
	if tx, fresh := o.take("modest", []byte("1"), here); tx == nil || fresh {
		t.Fatal("an open transaction was not found")
	} else {
		tx.finish()
		o.release(tx)
	}
	if take("late", "2", next) == nil {
		t.Error("one that is finished keeps its network's room")
	}
}

// TestFinishedTransactionsGoFirst has those that are finished give way when all are full, and the others stay.
func TestFinishedTransactionsGoFirst(t *testing.T) {
	o := newTransactions(func() time.Time { return time.Unix(1e9, 0) })
	for i := range openMost {
		tx, _ := o.take(senderOf(i, 10), []byte(fmt.Sprint(i)), address(i))
		if i%4 == 0 {
			tx.finish()
		}
		o.release(tx)
	}
	tx, fresh := o.take("one more", []byte("1"), netip.Addr{})
	if !fresh {
		t.Fatal("no room, though a quarter is finished")
	}
	o.release(tx)
	if n := len(o.byID); n != openMost*3/4+1 {
		t.Errorf("%d are left, want %d", n, openMost*3/4+1)
	}
}

// TestTransactionsTakeTurns has many messages of one transaction at once.
func TestTransactionsTakeTurns(t *testing.T) {
	o := newTransactions(time.Now)
	var all sync.WaitGroup
	held, fresh := 0, 0
	for range 50 {
		all.Go(func() {
			tx, isFresh := o.take("one", nil, netip.Addr{})
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
	for _, tx := range o.byID {
		if fresh != 1 || len(o.byID) != 1 || tx.used != 0 {
			t.Errorf("%d were the first of %d, and %d use it", fresh, len(o.byID), tx.used)
		}
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
