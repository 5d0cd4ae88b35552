package contracttest

import (
	"errors"
	"fmt"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// dialogue is what a client says on a socket, and what it is answered.
type dialogue struct{ command, answer *jsonschema.Schema }

func (l *loader) dialogue(socket node) (d dialogue) {
	for name, schema := range map[string]**jsonschema.Schema{"command": &d.command, "answer": &d.answer} {
		m := socket.child(name)
		*schema = l.schema(m.child("payload"))
		for i, example := range m.child("examples").children() {
			l.fits(*schema, name+" example "+i, example.child("payload").value)
		}
	}
	return d
}

// Command holds a command that was sent on a socket, and its answer, against the document: the
// answer must be documented, and a command must be that was taken.
func (c *Contract) Command(command, answer string) error {
	told, err := decode([]byte(answer))
	if err == nil {
		err = c.socket.answer.Validate(told)
	}
	if err != nil {
		return fmt.Errorf("the answer %s: %w", answer, err)
	}
	object := told.(map[string]any)
	if _, taken := object["ok"]; !taken {
		return nil
	}
	said, err := decode([]byte(command))
	if err == nil {
		err = c.socket.command.Validate(said)
	}
	if err == nil && said.(map[string]any)["n"] != object["n"] { // which no schema can say
		err = errors.New("the answer has another n: " + answer)
	}
	if err != nil {
		return fmt.Errorf("taken, though of the command %.300s: %w", command, err)
	}
	return nil
}
