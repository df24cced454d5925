package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"mooring/wire/est"
)

// job is one enrolment: the whole HTTP request, ready to be written.
type job struct{ request []byte }

func newJob(t token, csr []byte) job {
	body := est.EncodeBase64(csr)
	credentials := base64.StdEncoding.EncodeToString([]byte(t.device + ":" + t.secret))
	head := fmt.Appendf(nil, "POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic %s\r\nContent-Type: application/pkcs10\r\nContent-Length: %d\r\n\r\n",
		credentials, len(body))
	return job{append(head, body...)}
}

// connections are keep-alive TLS connections to one EST server.
type connections []*tls.Conn

func dial(ctx context.Context, address string, roots *x509.CertPool, n int) (list connections, err error) {
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}}
	for range n {
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			list.close()
			return nil, fmt.Errorf("connecting to the server: %w", err)
		}
		list = append(list, c.(*tls.Conn))
	}
	return list, nil
}

func (list connections) close() {
	for _, c := range list {
		_ = c.Close() // the measurement is over
	}
}

// run does all jobs, each connection one after the other, and returns when the last is answered.
func (list connections) run(jobs []job) error {
	var next atomic.Int64
	failed := make([]error, len(list))
	var all sync.WaitGroup
	for k, c := range list {
		all.Go(func() {
			in := bufio.NewReaderSize(c, 8<<10)
			for i := next.Add(1) - 1; i < int64(len(jobs)); i = next.Add(1) - 1 {
				if failed[k] = enrolOnce(c, in, jobs[i].request); failed[k] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

func enrolOnce(c *tls.Conn, in *bufio.Reader, request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s: %s %s", answer.Status, body, answer.Header.Get("WWW-Authenticate"))
	}
	return nil
}
