package gate

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"reflect"
	"unsafe"
)

// Digest returns the SHA-256 of the first certificate of Chain, and false when the client presented none. It stays after Forget.
func (p *Peer) Digest() (digest [sha256.Size]byte, ok bool) {
	if p.digest != nil {
		return *p.digest, true
	}
	if len(p.chain) == 0 {
		return digest, false
	}
	return sha256.Sum256(p.chain[0]), true
}

// Forget lets go of all that is large: afterwards there is neither Chain, Leaf, Bindings nor Cache, but only Digest. It is for streams that live long, when it
// is known who the client is; the one who calls it is the one who reads the stream, and nobody else may use the Peer meanwhile.
func (p *Peer) Forget() {
	if digest, ok := p.Digest(); ok {
		p.digest = &digest
	}
	p.chain, p.leaf, p.bindings = nil, nil, nil
	p.mu.Lock()
	p.cache = nil
	p.mu.Unlock()
	if p.conn == nil || p.conn.stream == nil {
		return
	}
	if secure, ok := p.conn.stream.out.(*tls.Conn); ok {
		slim(secure)
	}
}

// slim takes from a connection what crypto/tls keeps of the handshake and never looks at again: the client's certificates, parsed, and the buffers that
// have grown by its messages, if nothing is left in them. That is a third of what an idle connection costs, and there is no other way to it. Of a version of Go
// that keeps such things elsewhere nothing is taken: TestForget fails then, and the memory is all that is lost. The handshake is complete, the
// caller is the only reader, and writers use none of these fields.
func slim(c *tls.Conn) {
	_ = c.ConnectionState() // so that all that the handshake wrote has happened before
	if field := fieldOf[[]*x509.Certificate](c, "peerCertificates"); field != nil {
		*field = nil
	}
	if field := fieldOf[[][]*x509.Certificate](c, "verifiedChains"); field != nil {
		*field = nil
	}
	if hand := fieldOf[bytes.Buffer](c, "hand"); hand != nil && hand.Len() == 0 {
		*hand = bytes.Buffer{}
	}
	raw, input := fieldOf[bytes.Buffer](c, "rawInput"), fieldOf[bytes.Reader](c, "input") // input refers to raw
	if raw != nil && input != nil && raw.Len() == 0 && input.Len() == 0 {
		*raw = bytes.Buffer{}
	}
}

// fieldOf returns a field of c, or nil if there is none of this name and type.
func fieldOf[T any](c *tls.Conn, name string) *T {
	f := reflect.ValueOf(c).Elem().FieldByName(name)
	if !f.IsValid() || f.Type() != reflect.TypeFor[T]() {
		return nil
	}
	return (*T)(unsafe.Pointer(f.UnsafeAddr()))
}
