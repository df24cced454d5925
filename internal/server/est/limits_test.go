package est_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
)

// TestHugeBody: ten megabytes are refused at the first look, or at the limit when they do not say their size, and are not kept.
func TestHugeBody(t *testing.T) {
	p := apptest.Start(t, nil)
	const size = 10 << 20
	f := &fresh{p: p, profile: "device"}
	for _, c := range []struct {
		name, length string
		first, last  string
	}{
		{"announced", fmt.Sprintf("Content-Length: %d", size), "", ""},
		{"chunked", "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n", size), "\r\n0\r\n\r\n"},
	} {
		t.Run("body over the limit 413 without buffering, "+c.name, func(t *testing.T) {
			call := f.call(t, enroll)
			call.Body, call.Header = []byte{}, []string{"Content-Length:", c.length}
			conn := p.Dial(t, p.TLS(nil))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			done := make(chan error, 1)
			replied := make(chan struct{})
			go func() { done <- pour(conn, conn.Text(call)+c.first, size, replied) }()
			r := conn.Reply(t, "POST")
			close(replied)
			runtime.ReadMemStats(&after)
			want(t, r, 413, "the body has more than the 65536 octets allowed here\n")
			if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
				t.Logf("the connection was cut: %v", err)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > size/2 {
				t.Errorf("refusing took %d octets of memory", grown)
			}
		})
	}
	if r := p.Send(t, f.call(t, enroll)); r.StatusCode != 200 {
		t.Errorf("afterwards: %s", r)
	}
}

// pour writes head and then size octets, until the server has replied or cuts the connection.
func pour(w io.Writer, head string, size int, replied <-chan struct{}) error {
	b := bufio.NewWriterSize(w, 16<<10)
	if _, err := b.WriteString(head); err != nil {
		return err
	}
	for range size {
		select {
		case <-replied:
			return nil
		default:
		}
		if err := b.WriteByte('A'); err != nil {
			return err
		}
	}
	return b.Flush()
}

// TestSlowSender: whoever sends too slowly is cut off, and the others are served meanwhile.
func TestSlowSender(t *testing.T) {
	const patience = 2 * time.Second // enough for the other device, also on a machine with much else to do
	p := apptest.Start(t, func(c *conf.Config) { c.Limits.BodyTimeout, c.Limits.HeaderTimeout = patience, patience })
	f := &fresh{p: p, profile: "device"}
	t.Run("slow-loris: body", func(t *testing.T) {
		t.Parallel()
		call := f.call(t, enroll)
		rest := call.Body[10:]
		call.Header = []string{fmt.Sprintf("Content-Length: %d", len(call.Body))}
		call.Body = call.Body[:10]
		began := time.Now()
		conn := p.Dial(t, p.TLS(nil))
		conn.Say(t, []byte(conn.Text(call)))
		if r := p.Send(t, f.call(t, enroll)); r.StatusCode != 200 {
			t.Errorf("another device meanwhile: %s", r)
		}
		wantCut(t, conn, began, patience)
		if d := p.Load(t, f.id(t)); d.Issued != 1 || len(rest) == 0 {
			t.Errorf("the other device was issued %d certificates", d.Issued)
		}
	})
	t.Run("slow-loris: header", func(t *testing.T) {
		t.Parallel()
		began := time.Now()
		conn := p.Dial(t, p.TLS(nil))
		conn.Say(t, []byte("POST "+enroll+" HTTP/1.1\r\nHost: loc"))
		wantCut(t, conn, began, patience)
	})
}

// wantCut reads until the server closes and checks that it did so not before it should.
func wantCut(t *testing.T, conn *apptest.Conn, began time.Time, patience time.Duration) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal("the connection was not cut")
	}
	if took := time.Since(began); took < patience/2 {
		t.Errorf("cut after %s, want %s or more", took, patience)
	}
	if len(text) == 0 {
		return
	}
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), nil)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusServiceUnavailable && r.StatusCode != http.StatusRequestTimeout {
		t.Errorf("told %s", r.Status)
	}
}
