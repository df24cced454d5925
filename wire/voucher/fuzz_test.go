package voucher

import (
	"crypto/rand"
	"reflect"
	"testing"
)

func FuzzParseRequest(f *testing.F) {
	_, registrar := domain(f)
	r := exampleRequest(registrar)
	message, err := r.Sign(registrar.key, registrar.cert, nil, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(message)
	f.Fuzz(func(t *testing.T, in []byte) {
		if got, err := ParseRequest(in); err == nil && got.VerifiedBy(got.Chain[0]) != nil {
			t.Error("a request that its own certificate did not sign was taken")
		}
	})
}

func FuzzParseVoucher(f *testing.F) {
	root, _ := domain(f)
	v := exampleVoucher(root)
	message, err := v.Sign(root.key, root.cert, nil, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(message)
	f.Fuzz(func(t *testing.T, in []byte) {
		if got, err := ParseVoucher(in); err == nil && len(got.Chain) > 0 && got.VerifiedBy(got.Chain[0]) != nil {
			t.Error("a voucher that its own certificate did not sign was taken")
		}
	})
}

// What stands inside the signature, which the others do not reach.
func FuzzContent(f *testing.F) {
	root, registrar := domain(f)
	r, v := exampleRequest(registrar), exampleVoucher(root)
	for _, encode := range []func() ([]byte, error){r.encode, v.encode} {
		content, err := encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if r, err := decodeRequest(in); err == nil {
			again(t, r.encode, decodeRequest, r)
		}
		if v, err := decodeVoucher(in); err == nil {
			again(t, v.encode, decodeVoucher, v)
		}
	})
}

func again[T any](t *testing.T, encode func() ([]byte, error), decode func([]byte) (T, error), want T) {
	out, err := encode()
	if err != nil {
		t.Fatalf("%+v was read, and cannot be written: %v", want, err)
	}
	if got, err := decode(out); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read again as %+v, %v, want %+v", got, err, want)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(`{"version":1,"status":false,"reason":"no","reason-context":{"additional":"JSON"}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := ParseStatus(in)
		if err != nil {
			return
		}
		s.Unknown = nil
		if out, err := s.Encode(); err == nil {
			if got, err := ParseStatus(out); err != nil || got.Version != s.Version || got.Status != s.Status || got.Reason != s.Reason {
				t.Errorf("read again as %+v, %v, want %+v", got, err, s)
			}
		}
	})
}

func FuzzParseAuditLog(f *testing.F) {
	f.Add([]byte(exampleLog))
	f.Fuzz(func(t *testing.T, in []byte) {
		l, err := ParseAuditLog(in)
		if err != nil {
			return
		}
		if out, err := l.Encode(); err == nil {
			if got, err := ParseAuditLog(out); err != nil || !reflect.DeepEqual(got, l) {
				t.Errorf("read again as %+v, %v, want %+v", got, err, l)
			}
		}
	})
}
