/* The put function for each type, fed from a view. Nothing is copied from view->bytes: a field that
 * the view lost is lost here. */
#include "tests/support/reencode.h"

#include <stdlib.h>

size_t reencode_frame(uint8_t *out, const struct wire_frame *view)
{
    switch ((enum wire_type)view->type) {
    case WIRE_PUBLISH:
    case WIRE_REQUEST:
    case WIRE_REPLY:
    case WIRE_MESSAGE:
        return wire_put_message(out, view->type, view->priority, view->flags, view->number,
                                view->expiry, view->text, view->text_size, view->payload,
                                view->payload_size);
    case WIRE_SUBSCRIBE:
    case WIRE_UNSUBSCRIBE:
    case WIRE_REPORT:
        return wire_put_text(out, view->type, view->flags, (uint32_t)view->number, view->text,
                             view->text_size);
    case WIRE_REGISTER:
        return wire_put_register(out, view->flags, view->nonce, view->pid, view->start, view->text,
                                 view->text_size);
    case WIRE_BYE:
        return wire_put_bye(out);
    case WIRE_ANSWER:
        return wire_put_answer(out, view->code, (uint32_t)view->number, view->count);
    case WIRE_WELCOME:
        return wire_put_welcome(out, view);
    case WIRE_STOPPED:
    case WIRE_ENDED:
        return wire_put_end(out, view->type, view->code);
    }
    abort(); /* the decoder let a type through that there is not */
}
