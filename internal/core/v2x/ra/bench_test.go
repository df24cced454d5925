package ra

import (
	"crypto/rand"
	"testing"

	"mooring/wire/butterfly"
	"mooring/wire/its"
)

func BenchmarkRequest(b *testing.B) {
	for name, v := range map[string]butterfly.Variant{"original": butterfly.Original, "unified": butterfly.Unified} {
		k := butterfly.CaterpillarKeys{Variant: v}
		var err error
		if k.SigningKey, err = butterfly.RandomScalar(rand.Reader); err != nil {
			b.Fatal(err)
		}
		if k.EncryptionKey, err = butterfly.RandomScalar(rand.Reader); err != nil {
			b.Fatal(err)
		}
		e := NewExpansion(k.Public(), []its.PsidSsp{its.Bitmap(its.PsidCAM, 1, 0, 0)}, false)
		v := its.ValidityPeriod{Start: 1, Duration: its.Duration{Choice: its.Hours, Value: 168}}
		b.Run(name, func(b *testing.B) {
			var j uint32
			for b.Loop() {
				if _, err := e.Request(620, j, v, 1); err != nil {
					b.Fatal(err)
				}
				j++
			}
		})
		b.Run(name+" primitives", func(b *testing.B) {
			p := k.SigningKey.Public()
			for b.Loop() {
				_ = p.Add(k.EncryptionKey.Public()).Bytes()
			}
		})
	}
}
