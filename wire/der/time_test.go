package der_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"mooring/wire/der"
)

func TestAppendTime(t *testing.T) {
	for unix, want := range map[int64]string{
		0:               "\x17\x0d700101000000Z",
		-631152000:      "\x17\x0d500101000000Z",
		951782400:       "\x17\x0d000229000000Z",
		2524607999:      "\x17\x0d491231235959Z",
		2524608000:      "\x18\x0f20500101000000Z",
		4107542400:      "\x18\x0f21000301000000Z",
		der.NoExpiry:    "\x18\x0f99991231235959Z",
		1_700_000_000:   "\x17\x0d231114221320Z",
		13569465600 - 1: "\x18\x0f23991231235959Z",
	} {
		got, err := der.AppendTime(nil, unix)
		if err != nil || string(got) != want {
			t.Errorf("AppendTime(%d) = %q, %v; want %q", unix, got, err, want)
		}
	}
	for _, unix := range []int64{-631152001, der.NoExpiry + 1, -1 << 63, 1<<63 - 1} {
		if got, err := der.AppendTime(nil, unix); err == nil {
			t.Errorf("AppendTime(%d) = %q, want an error", unix, got)
		}
		if got, err := der.AppendGeneralizedTime(nil, unix); err == nil {
			t.Errorf("AppendGeneralizedTime(%d) = %q, want an error", unix, got)
		}
	}
}

func TestAppendTimeMatchesStandardLibrary(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		unix := random.Int64N(der.NoExpiry+631152001) - 631152000
		got, err := der.AppendGeneralizedTime(nil, unix)
		if err != nil {
			t.Fatal(err)
		}
		var b cryptobyte.Builder
		b.AddASN1GeneralizedTime(time.Unix(unix, 0).UTC())
		if want := b.BytesOrPanic(); string(got) != string(want) {
			t.Fatalf("AppendGeneralizedTime(%d) = %q, want %q", unix, got, want)
		}
	}
}
