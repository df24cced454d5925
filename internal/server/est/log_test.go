package est_test

import (
	"regexp"
	"strings"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/wire/der"
)

// TestLog: a request's line says which operation, by which profile, for which device and why not, and nothing that a client chose.
func TestLog(t *testing.T) {
	p := apptest.Start(t, nil)
	f := &fresh{p: p, profile: "device"}
	good := f.call(t, root+"device/simpleenroll")
	first := f.id(t).String()
	wrong := good
	wrong.Secret = "mt_marsha-private"
	other := f.call(t, root+"gateway/simpleenroll")
	second := f.id(t).String()
	subject := f.call(t, enroll)
	third := f.id(t).String()
	subject.Body = apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "marsha-private"}}}))
	typed := f.call(t, enroll)
	typed.Header = []string{"Content-Type:", "Content-Type: text/marsha-private"}
	for _, c := range []apptest.Call{good, wrong, other, subject, typed, {Path: root + "marsha-private/cacerts"}, {Path: root + "marsha-private"}} {
		p.Send(t, c)
	}
	p.Stop(t) // a line is written after its answer

	log := p.Log.String()
	for _, want := range []string{
		`status=200 .* operation=simpleenroll profile=device device=` + first + `\n`,
		`status=401 .* operation=simpleenroll profile=device refused=unauthenticated reason=".+"\n`,
		`status=403 .* refused=denied operation=simpleenroll profile=gateway device=` + second + ` reason="this device is registered for another profile than \\"…\\""\n`,
		`status=403 .* refused=denied operation=simpleenroll device=` + third + ` reason="the request asks for the subject \\"…\\", but .+"\n`,
		`status=415 .* operation=simpleenroll refused=invalid reason="the Content-Type must be application/pkcs10"\n`,
		`status=404 .* refused="not found" operation=cacerts reason="there is no profile \\"…\\""\n`,
		`status=404 .* refused="not found"\n`,
	} {
		if !regexp.MustCompile(want).MatchString(log) {
			t.Errorf("no line is like %s", want)
		}
	}
	if strings.Contains(log, "marsha-private") || strings.Contains(log, "device-1") {
		t.Errorf("the log holds what a client chose:\n%s", log)
	}
}
