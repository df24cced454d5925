package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mooring/agent/brski"
	"mooring/agent/durable"
	"mooring/agent/est"
)

const (
	masaFile    = "masa-ca.pem" // by what vouchers of the manufacturer are believed
	voucherFile = "voucher.req" // in next/: the request for one, while the registrar has not answered it
	reportFile  = "report-owed" // there while the registrar is to be told how it went: the number of the generation in use before
)

// voucherPatience is how long an enrolment waits by itself for a registrar that has to ask the manufacturer first. For longer ones the caller, or Run, comes again.
const voucherPatience = time.Minute

// stage is how far an enrolment by voucher has come.
type stage string

const (
	voucherWanted   stage = "wanted"   // the server is not believed yet
	voucherAccepted stage = "accepted" // it is, by what lies in serverCAFile
)

// believeByVoucher stores what a voucher is to be believed by.
func (a *Agent) believeByVoucher(_ context.Context, first First) error {
	switch {
	case !strings.HasPrefix(a.config.Server, "https://"):
		return errors.New("a voucher is asked for over https://; give the registrar's address so")
	case first.Roots != nil || first.Fingerprint != nil:
		return errors.New("the server is believed by the voucher: give neither its roots nor a fingerprint")
	case first.CertFile == "":
		return errors.New("a voucher is for a device that shows the certificate it was made with; give that")
	}
	return writeCertificates(a.folder.path(masaFile), first.MASA...)
}

// stage tells how far an earlier attempt came that the server has not decided. What else broke off begins with a new voucher.
func (a *Agent) stage(c credential) stage {
	var kept credential
	if err := a.folder.readJSON(filepath.Join(nextFolder, credentialFile), &kept); err == nil && kept.Voucher == voucherAccepted && kept.CertFile == c.CertFile {
		return voucherAccepted
	}
	return voucherWanted
}

// enrolByVoucher enrols with a server that is believed by a voucher of the device's manufacturer (RFC 8995), and notes in c when that is so.
func (a *Agent) enrolByVoucher(ctx context.Context, c *credential) error {
	proof, err := a.proof(*c)
	if err != nil {
		return err
	}
	anchors, err := a.folder.readCertificates(masaFile)
	if err != nil {
		return err
	}
	pledge, err := brski.New(brski.Config{IDevID: proof.Certificate, MASA: anchors, Now: a.options.Now})
	if err != nil {
		return err
	}
	session, err := est.Provisional(ctx, a.estConfig(), proof)
	if err != nil {
		return err
	}
	defer session.Close()
	domain, err := a.meet(ctx, pledge, session)
	if err != nil {
		return err
	}
	if err := a.belong(domain); err != nil {
		return err
	}
	c.Voucher = voucherAccepted
	return a.reporting(ctx, session, a.orderBy(ctx, session, nil))
}

// meet gets a voucher and believes the server of the session by it. The registrar is told what came of it.
func (a *Agent) meet(ctx context.Context, pledge *brski.Pledge, session *est.Session) (*x509.Certificate, error) {
	request, err := a.voucherRequest(pledge, session.Peer()[0])
	if err != nil {
		return nil, err
	}
	message, err := a.askForVoucher(ctx, pledge, session, request)
	if err != nil {
		return nil, err
	}
	domain, err := pledge.Accept(session, request, message)
	if err = brski.TellVoucher(ctx, session, err); err != nil {
		// Another voucher may be a better one, and must answer a request of its own.
		return nil, errors.Join(err, a.folder.remove(filepath.Join(nextFolder, voucherFile)))
	}
	return domain, nil
}

// voucherRequest is the request that is repeated until it is answered: that of an earlier attempt, if it fits.
func (a *Agent) voucherRequest(pledge *brski.Pledge, registrar *x509.Certificate) ([]byte, error) {
	path := filepath.Join(a.folder.next(), voucherFile)
	request, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil && pledge.Fits(request, registrar) {
		return request, nil
	}
	if request, err = pledge.Request(registrar); err != nil {
		return nil, err
	}
	if err := durable.Mkdir(a.folder.next()); err != nil {
		return nil, err
	}
	return request, durable.WriteFile(path, request, 0o600)
}

// askForVoucher sends the same request while the registrar has not decided and there is patience left.
func (a *Agent) askForVoucher(ctx context.Context, pledge *brski.Pledge, session *est.Session, request []byte) ([]byte, error) {
	end := a.options.Now().Add(voucherPatience)
	for {
		message, err := pledge.Ask(ctx, session, request)
		var pending *est.PendingError
		if !errors.As(err, &pending) || a.options.Now().Add(pending.RetryAfter).After(end) {
			return message, err
		}
		if err := a.options.Sleep(ctx, pending.RetryAfter); err != nil {
			return nil, err
		}
	}
}

// belong stores the certificate of the domain as what the server is believed by, and that it waits for a report.
func (a *Agent) belong(domain *x509.Certificate) error {
	if err := writeCertificates(a.folder.path(serverCAFile), domain); err != nil {
		return err
	}
	if !a.folder.enrolled() {
		if err := a.folder.remove(caFile); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(a.folder.path(reportFile), []byte(strconv.Itoa(a.folder.inUse())), 0o600); err != nil {
		return err
	}
	return a.folder.remove(filepath.Join(nextFolder, voucherFile))
}

// owesReport tells whether a registrar gave a voucher and does not know yet how the enrolment went.
func (a *Agent) owesReport() bool {
	_, err := os.Stat(a.folder.path(reportFile))
	return err == nil
}

// reportDue tells whether the enrolment that it does not know about has succeeded.
func (a *Agent) reportDue() bool {
	before, err := os.ReadFile(a.folder.path(reportFile))
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(string(before))
	return err == nil && a.folder.inUse() > n
}

// reporting tells the registrar of the session how the enrolment went that the device owes it a report about, and returns that.
func (a *Agent) reporting(ctx context.Context, session *est.Session, outcome error) error {
	var pending *est.PendingError
	var silent *est.UnreachableError
	switch {
	case !a.owesReport() || errors.As(outcome, &pending) || errors.As(outcome, &silent) || ctx.Err() != nil: // in the last three cases it goes on later
	case outcome == nil:
		a.reportSuccess(ctx)
	default: // over the connection of the enrolment
		if err := brski.TellEnrolment(ctx, session, outcome); err != nil {
			a.options.Log.LogAttrs(ctx, slog.LevelInfo, "registrar was not told that the enrolment failed", slog.String("error", err.Error()))
		}
	}
	return outcome
}

// reportSuccess tells the registrar over a new connection, by the new certificate, that the device is enrolled (RFC 8995, section 5.9.4). When that cannot be
// done the device is enrolled all the same, and Run tries it again.
func (a *Agent) reportSuccess(ctx context.Context) {
	err := a.tellEnrolled(ctx)
	if err == nil {
		err = a.folder.remove(reportFile)
	}
	if err != nil && ctx.Err() == nil {
		a.options.Log.LogAttrs(ctx, slog.LevelInfo, "registrar was not told yet that the device is enrolled", slog.String("error", err.Error()))
	}
}

func (a *Agent) tellEnrolled(ctx context.Context) error {
	identity, err := a.Identity()
	if err != nil {
		return err
	}
	roots, err := a.folder.trusted()
	if err != nil {
		return err
	}
	client, err := a.client(roots)
	if err != nil {
		return err
	}
	session, err := client.Connect(ctx, est.Credential{Certificate: identity.TLS()})
	if err != nil {
		return err
	}
	defer session.Close()
	return brski.TellEnrolment(ctx, session, nil)
}
