def render(found, study):
    return "<!DOCTYPE html>"
