package mqtt

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	wire "mooring/wire/mqtt"
)

// identity is a certificate for 127.0.0.1, and who believes it.
func identity(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// Over TLS the protocol is named by ALPN; Close says goodbye, and Break does not.
func TestTLS(t *testing.T) {
	certificate, pool := identity(t)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1", "mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	for _, row := range []struct {
		name string
		end  func(*Conn)
		said bool
	}{
		{"Close", func(c *Conn) {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}, true},
		{"Break", func(c *Conn) { c.Break() }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			served := make(chan *peer, 1)
			go func() {
				defer close(served)
				end, err := listener.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				served <- accept(t, end, wire.Connack{})
			}()
			conn, err := Dial(t.Context(), Config{Dial: TLS(listener.Addr().String(), &tls.Config{RootCAs: pool}), Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			p, ok := <-served
			if !ok {
				t.FailNow()
			}
			defer func() { _ = p.Close() }()
			over, ok := p.Conn.(*tls.Conn)
			if !ok || over.ConnectionState().NegotiatedProtocol != "mqtt" {
				t.Errorf("the protocol is not named")
			}
			row.end(conn)
			if row.said {
				p.want(wire.Disconnect{})
			}
			if _, _, err := p.r.next(); !errors.Is(err, io.EOF) {
				t.Errorf("the server read %v, want the end", err)
			}
			if err := conn.Err(); !errors.Is(err, ErrClosed) {
				t.Errorf("the client says %v", err)
			}
		})
	}
	go func() {
		if end, err := listener.Accept(); err == nil {
			_, _ = end.Read(make([]byte, 1)) // the handshake, which fails
			_ = end.Close()
		}
	}()
	if _, err := Dial(t.Context(), Config{Dial: TLS(listener.Addr().String(), &tls.Config{}), Now: time.Now}); err == nil {
		t.Error("a server that nobody believes was connected to")
	}
}

func TestTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		end, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		p := accept(t, end, wire.Connack{ReceiveMaximum: 7})
		p.want(wire.Disconnect{})
		_ = end.Close()
	}()
	conn, err := Dial(t.Context(), Config{Dial: TCP(listener.Addr().String()), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if a := conn.Answer(); a.ReceiveMaximum != 7 {
		t.Errorf("answer %+v", a)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}
